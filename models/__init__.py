"""The model families, written from scratch; importing this package registers them with the library's Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForSeq2SeqLM, AutoTokenizer

from .configuration_resnet import ResNet6n2Config
from .configuration_slot_attention import SlotAttentionConfig
from .configuration_slot_diffusion import SlotDiffusionConfig
from .configuration_slot_unet import SlotUNetConfig
from .configuration_text2math import Text2MathConfig
from .configuration_vqvae import VQVAEConfig
from .modeling_resnet import ResNet6n2ForImageClassification, ResNet6n2Model, ResNet6n2PreTrainedModel
from .modeling_slot_attention import (
    SlotAttentionAutoencoder,
    SlotAttentionAutoencoderOutput,
    SlotAttentionModel,
    SlotAttentionModelOutput,
    SlotAttentionPreTrainedModel,
)
from .modeling_slot_diffusion import SlotDiffusionModel, SlotDiffusionOutput
from .modeling_slot_unet import SlotUNetCache, SlotUNetModel, SlotUNetOutput
from .modeling_text2math import (
    Text2MathForProgramGeneration,
    Text2MathGenerateOutput,
    Text2MathOutput,
    Text2MathPreTrainedModel,
)
from .modeling_vqvae import VQVAEModel, VQVAEOutput
from .normalization import (
    BatchInstanceNorm2d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm2d,
    build_norm,
)
from .pipeline_slot_diffusion import SlotDiffusionPipeline, SlotDiffusionPipelineOutput
from .scheduling_ddpm import LatentDDPMScheduler
from .slot_attention import SlotAttention
from .slot_decoders import SpatialBroadcastDecoder
from .tokenization_text2math import Text2MathTokenizer

AutoConfig.register(ResNet6n2Config.model_type, ResNet6n2Config)
AutoModel.register(ResNet6n2Config, ResNet6n2Model)
AutoModelForImageClassification.register(ResNet6n2Config, ResNet6n2ForImageClassification)
AutoConfig.register(SlotAttentionConfig.model_type, SlotAttentionConfig)
AutoModel.register(SlotAttentionConfig, SlotAttentionAutoencoder)
AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig)
AutoModel.register(VQVAEConfig, VQVAEModel)
AutoConfig.register(SlotDiffusionConfig.model_type, SlotDiffusionConfig)
AutoModel.register(SlotDiffusionConfig, SlotDiffusionModel)
AutoConfig.register(SlotUNetConfig.model_type, SlotUNetConfig)
AutoModel.register(SlotUNetConfig, SlotUNetModel)
AutoConfig.register(Text2MathConfig.model_type, Text2MathConfig)
AutoModel.register(Text2MathConfig, Text2MathForProgramGeneration)
AutoModelForSeq2SeqLM.register(Text2MathConfig, Text2MathForProgramGeneration)
AutoTokenizer.register(Text2MathConfig, Text2MathTokenizer)

__all__ = [
    "BatchInstanceNorm2d",
    "BatchNorm2d",
    "GroupNorm",
    "InstanceNorm2d",
    "LatentDDPMScheduler",
    "LayerNorm2d",
    "ResNet6n2Config",
    "ResNet6n2ForImageClassification",
    "ResNet6n2Model",
    "ResNet6n2PreTrainedModel",
    "SlotAttention",
    "SlotAttentionAutoencoder",
    "SlotAttentionAutoencoderOutput",
    "SlotAttentionConfig",
    "SlotAttentionModel",
    "SlotAttentionModelOutput",
    "SlotAttentionPreTrainedModel",
    "SlotDiffusionConfig",
    "SlotDiffusionModel",
    "SlotDiffusionOutput",
    "SlotDiffusionPipeline",
    "SlotDiffusionPipelineOutput",
    "SlotUNetCache",
    "SlotUNetConfig",
    "SlotUNetModel",
    "SlotUNetOutput",
    "SpatialBroadcastDecoder",
    "Text2MathConfig",
    "Text2MathForProgramGeneration",
    "Text2MathGenerateOutput",
    "Text2MathOutput",
    "Text2MathPreTrainedModel",
    "Text2MathTokenizer",
    "VQVAEConfig",
    "VQVAEModel",
    "VQVAEOutput",
    "build_norm",
]
